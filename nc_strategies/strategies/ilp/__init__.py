"""The integer-programming strategy: least predicted latency within a predicted loss, corrected by trials."""
