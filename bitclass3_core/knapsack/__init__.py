"""The multiple-choice knapsack: bounds and better answers."""
