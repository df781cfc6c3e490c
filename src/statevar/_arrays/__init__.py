"""What array libraries are: their contracts, dtypes, shapes and selections. No variable is known here."""
