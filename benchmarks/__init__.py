"""The speed claims of docs/performance.md, each a ratio measured side by side in one run."""
