"""From runs on disk to tables, figures and a page."""
