"""What is measured against others; each module or package in here is a command of its own."""
