"""`stats`: counters in Prometheus' text format."""

from ..contexts import ContextTable


def format_stats(table: ContextTable, uptime: float) -> str:
    """The counters of the daemon; uptime in seconds."""
    open_contexts = list(table)
    completed = table.completed + sum(context.exchange.completed for context in open_contexts)
    failed = table.failed + sum(context.exchange.failed for context in open_contexts)
    rows = [
        ("cryptofs_uptime_seconds", "gauge", "Seconds since the mount was made.", uptime),
        ("cryptofs_contexts_open", "gauge", "Contexts that are open now.", len(open_contexts)),
        ("cryptofs_contexts_opened_total", "counter", "Contexts opened since the start.", table.opened),
        ("cryptofs_requests_total", "counter", "Requests answered since the start.", completed),
        ("cryptofs_requests_failed_total", "counter", "Requests answered with an error.", failed),
        (
            "cryptofs_requests_in_flight",
            "gauge",
            "Requests accepted and not answered yet.",
            sum(context.exchange.in_flight for context in open_contexts),
        ),
        (
            "cryptofs_queue_bytes",
            "gauge",
            "Bytes of requests and answers that are not read yet, and what messages in parts keep.",
            sum(context.exchange.bytes for context in open_contexts),
        ),
    ]
    lines = []
    for name, kind, text, value in rows:
        number = f"{value:.3f}" if isinstance(value, float) else str(value)
        lines.append(f"# HELP {name} {text}\n# TYPE {name} {kind}\n{name} {number}\n")
    by_engine: dict[str, int] = {}
    for context in open_contexts:
        if context.transform is not None:
            engine = context.transform.description.engine
            by_engine[engine] = by_engine.get(engine, 0) + 1
    lines.append(
        "# HELP cryptofs_contexts_configured Contexts that an engine serves now.\n"
        "# TYPE cryptofs_contexts_configured gauge\n"
    )
    lines += [
        f'cryptofs_contexts_configured{{engine="{engine}"}} {count}\n' for engine, count in sorted(by_engine.items())
    ]
    return "".join(lines)
