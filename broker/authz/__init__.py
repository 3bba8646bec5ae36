"""Authorization: rules, records, questions to the person, and decisions."""
