// npm `eventsource`: follows named events until a job has ended. Reconnecting is all its own.

import { EventSource } from 'eventsource';
import { end, say, task } from './program.mjs';

// Says when the first bytes of a stream have come, which the client itself does not tell.
async function watched(url, init) {
  const { body, status, headers } = await fetch(url, init);
  let first = true;
  const watch = new TransformStream({
    transform(chunk, controller) {
      controller.enqueue(chunk);
      if (first) {
        setImmediate(() => say('bytes')); // by then the client has read them
        first = false;
      }
    },
  });
  return new Response(body.pipeThrough(watch), { status, headers });
}

const source = new EventSource(task.url, task.watched ? { fetch: watched } : {});
const types = ['scheduled', 'queued', 'started', 'progress', 'retrying', 'succeeded', 'failed'];
for (const type of types.map((name) => `job.${name}`)) {
  source.addEventListener(type, ({ data, lastEventId }) => {
    say('event', { type, data: JSON.parse(data), id: lastEventId });
    if (['job.succeeded', 'job.failed'].includes(type)) {
      end();
    }
  });
}
for (const type of ['gateway.reset', 'gateway.bye']) {
  source.addEventListener(type, ({ data }) => say(type, { data: JSON.parse(data) }));
}
source.addEventListener('open', () => say('open'));
source.addEventListener('message', ({ data }) => say('message', { data }));
source.addEventListener('error', ({ code, message }) => {
  const closed = source.readyState === EventSource.CLOSED;
  say('error', { code, message, closed });
  if (closed) {
    end();
  }
});
