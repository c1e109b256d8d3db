"""The live view of `hotset top`: watch, sum up, draw."""
