"""``report.html``: a study as one page that answers from the top down. (The file makes the folder a package.)"""
