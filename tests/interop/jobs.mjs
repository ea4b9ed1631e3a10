// npm `centrifuge` with an API key: a job from submission to its end, and one that is cancelled.

import { connection, subscription } from './connection.mjs';
import { say, task } from './program.mjs';

const client = connection();
client.connect();
await client.ready();
const done = await client.rpc('job.submit', { type: 'echo', input: { value: [1] }, idempotency_key: 'one' });
const again = await client.rpc('job.submit', { type: 'echo', input: { value: [1] }, idempotency_key: 'one' });
say('submitted', { id: done.data.id, again: again.data.id });
const events = subscription(client, `job:${done.data.id}`, { since: { offset: 0, epoch: '' } });
const ended = new Promise((resolve) =>
  events.on('publication', ({ data }) => data.type === 'job.succeeded' && resolve()),
);
events.subscribe();
await ended;
say('job', (await client.rpc('job.get', { id: done.data.id })).data);
const later = await client.rpc('job.submit', { type: 'echo', delay: 600 });
say('cancelled', (await client.rpc('job.cancel', { id: later.data.id })).data);
await client.rpc('job.cancel', { id: later.data.id }).catch(({ code, message }) => say('refused', { code, message }));
await client.rpc('job.submit', { type: 'nobody.knows' }).catch(({ code, message }) => say('refused', { code, message }));
client.disconnect();
