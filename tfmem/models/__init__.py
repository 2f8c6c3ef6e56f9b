"""Models: cores put together as the papers do."""
