"""What small changes cost: chains of updates, adapters, and what git-theta recorded (`make bench` runs these too)."""
