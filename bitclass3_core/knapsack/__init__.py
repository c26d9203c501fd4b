"""The multiple-choice knapsack: bounds, and answers that are improved step by step."""
