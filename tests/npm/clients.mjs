// Other people's EventSource libraries, each as its own page says: `node clients.mjs NAME URL TOKEN` follows a stream and
// prints what it is told, a JSON line an event; and `{"closed": true}` where it has given up.
const [name, url, token] = process.argv.slice(2);
const TYPES = ["started", "progress", "conflict", "completed", "failed"].map((type) => `github_sync_${type}`);
const Authorization = `Bearer ${token}`;
const say = (event) => console.log(JSON.stringify(event));
const told = (event) => say({ type: event.type ?? event.event, id: event.lastEventId ?? event.id, data: event.data });

const CLIENTS = {
  async "eventsource"() {
    const { EventSource } = await import("eventsource");
    const source = new EventSource(url, { fetch: (to, init) => fetch(to, { ...init, headers: { ...init.headers, Authorization } }) });
    for (const type of [...TYPES, "heartbeat"]) source.addEventListener(type, told);
    source.onerror = () => source.readyState === source.CLOSED && say({ closed: true });
  },

  async "eventsource-client"() {
    const { createEventSource } = await import("eventsource-client");
    createEventSource({
      url,
      headers: { Authorization },
      onMessage: told,
      fetch: async (to, init) => {
        const response = await fetch(to, init);
        if (response.status === 204) say({ closed: true });
        return response;
      },
    });
  },

  async "@microsoft/fetch-event-source"() {
    globalThis.window = globalThis; // it is made for pages
    globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
    const { fetchEventSource } = await import("@microsoft/fetch-event-source");
    class Over extends Error {}
    // Its defaults take a clean close for the end and 204 for a failure: these four lines are the rule.
    await fetchEventSource(url, {
      headers: { Authorization },
      openWhenHidden: true,
      onmessage: (event) => event.event && told(event),
      async onopen({ status }) { if (status !== 200) throw status === 204 || (status < 500 && status !== 429) ? new Over() : new Error(`status ${status}`); },
      onclose() { throw new Error("it comes back"); },
      onerror(error) { if (error instanceof Over) throw error; return 1000; },
    }).catch(() => say({ closed: true }));
  },
};
await CLIENTS[name]();
