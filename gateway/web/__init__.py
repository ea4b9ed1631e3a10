"""What every HTTP route shares: problem documents, bodies, pagination."""
