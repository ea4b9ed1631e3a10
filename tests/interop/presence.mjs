// npm `centrifuge`: who is there, who comes and goes, and calls to jobs.

import { connection, subscription } from './connection.mjs';
import { end, say, task } from './program.mjs';

const client = connection({ getToken: async () => task.fresh });
client.on('subscribed', ({ channel }) => say('server subscribed', { channel }));
client.on('unsubscribed', ({ channel }) => say('server unsubscribed', { channel }));

async function call(name, promise) {
  try {
    say('answer', { to: name, value: await promise });
  } catch ({ code, message }) {
    say('refused', { to: name, code, message });
  }
}

client.connect();
await client.ready();
const room = subscription(client, task.room, { joinLeave: true });
room.on('join', ({ info }) => say('join', info));
room.on('leave', ({ info }) => say('leave', info));
room.subscribe();
await room.ready();
await new Promise((resolve) => room.on('leave', resolve));
await call('presence', room.presence());
await call('stats', room.presenceStats());
await call('get', client.rpc('job.get', { id: task.job }));
await call('foreign', client.rpc('job.get', { id: task.foreign }));
await call('submit', client.rpc('job.submit', { type: 'echo' }));
await call('wrong', client.rpc('job.get', {}));
await call('unknown', client.rpc('job.explode', {}));
client.disconnect();
