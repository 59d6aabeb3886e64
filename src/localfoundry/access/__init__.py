"""Who may use the service: API keys, what each may do and how much, and the record of what was done."""
