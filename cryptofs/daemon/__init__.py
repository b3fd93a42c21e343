"""The daemon: what it serves (`assembly`), how it starts, serves and ends (`serve`), and what it runs under."""
