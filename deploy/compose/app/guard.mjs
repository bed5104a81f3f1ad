// Keeping the process up: it holds rooms, so nothing that one client sends and no outage may end it or hold it up.

/** The handler, its exceptions and rejections reported instead of thrown. */
export function guarded(report, handler) {
  return async (...args) => {
    try {
      return await handler(...args);
    } catch (error) {
      report(error);
    }
  };
}

/** What the promise becomes, or a rejection after this many milliseconds. */
export async function within(ms, promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Runs one at a time. All who ask while it runs are served by one more run, which begins after they asked. */
export function coalesced(run) {
  let running = null;
  let asked = false;
  async function runWhileAsked() {
    try {
      while (asked) {
        asked = false;
        await run();
      }
    } finally {
      running = null;
    }
  }
  return () => {
    asked = true;
    running ??= runWhileAsked();
    return running;
  };
}
