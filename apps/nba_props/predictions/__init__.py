"""The prediction platform of the incident, on onerow."""
