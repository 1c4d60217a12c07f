"""What several tasks share: their model, loss, score and floors. A task's own file adds its data and says the rest."""
