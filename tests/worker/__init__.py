"""A real sync worker: it syncs a real git repository to a bare remote and reports what git really does."""
