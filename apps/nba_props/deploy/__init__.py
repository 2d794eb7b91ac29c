"""Deployment: images, services, scripts, and what tells whether it went well."""
