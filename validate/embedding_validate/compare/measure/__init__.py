"""What is measured, and how: systems in processes of their own."""
