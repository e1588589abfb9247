"""DeepSpeed, Ray and process groups. Every private API of them is used here only."""
