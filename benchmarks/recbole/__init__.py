"""SASRec of this project beside that of RecBole."""
