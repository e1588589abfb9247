"""Groups of Ray actors that hold one trained model together."""
