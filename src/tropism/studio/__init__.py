"""The studio: a web application on one study, in which people judge while the policy learns from it.

``app.create_app`` is the application, ``serving`` runs it; ``routes/`` has one file for each group of addresses. What
is asked and stored is ``feedback.queue``'s; this package knows browsers, accounts and JSON.
"""
