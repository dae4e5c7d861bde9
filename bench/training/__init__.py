"""How recipes are trained."""
