"""What stands where in a cache folder."""

PROMPTS, REPLIES, JOURNALS, LEDGER, LOCK_COPIES, LOCKS = "prompts", "replies", "journals", "ledger.jsonl", "lock", "locks"
REPORTS, LOOKS, CAPTURES = "reports", "looks.jsonl", "captures"

REPORT_SUFFIX = ".jsonl"
