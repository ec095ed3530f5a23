"""What stands where in a cache folder."""

PROMPTS, REPLIES, JOURNALS, LEDGER, LOCK_COPIES, LOCKS = "prompts", "replies", "journals", "ledger.jsonl", "lock", "locks"
REPORTS, LOOKS, CAPTURES, SEARCHES = "reports", "looks.jsonl", "captures", "searches"

REPORT_SUFFIX = ".jsonl"
