// npm `centrifuge`: everything a client may ask for besides events.

import { connection, subscription } from './connection.mjs';
import { end, say, task } from './program.mjs';

const client = connection();

async function call(name, promise) {
  try {
    say('answer', { to: name, value: await promise });
  } catch ({ code, message }) {
    say('refused', { to: name, code, message });
  }
}

const told = (emitter, event) => new Promise((resolve) => emitter.once(event, resolve));

client.connect();
await client.ready();
const own = subscription(client, task.own);
own.subscribe();
await own.ready();

const since = (await client.history(task.own, { limit: 0 })).epoch;
await call('history', own.history({ limit: -1 }));
await call('history position', own.history());
await call('history since', own.history({ limit: 1, since: { offset: 1, epoch: since } }));
await call('history reverse', own.history({ limit: 1, reverse: true }));
await call('history lost', own.history({ limit: 1, since: { offset: 1, epoch: 'another' } }));
await call('history foreign', client.history(task.foreign, { limit: 1 }));
await call('publish', own.publish({ text: 'not mine to say' }));
await call('presence', own.presence());
await call('presence stats', own.presenceStats());
await call('rpc', client.rpc('nothing', {}));

const foreign = subscription(client, task.foreign);
foreign.subscribe();
await told(foreign, 'unsubscribed');

const chat = subscription(client, task.chat);
chat.subscribe();
await chat.ready();
const heard = told(chat, 'publication');
await call('publish in chat', chat.publish(task.said));
await heard;

chat.unsubscribe();
await call('publish while away', client.publish(task.chat, 'nobody listens'));
chat.subscribe();
await chat.ready();
const again = told(chat, 'publication');
await call('publish again', chat.publish('back'));
await again;
client.disconnect();
end();
