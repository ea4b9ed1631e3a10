// npm `centrifuge`: follows a channel until a job has ended. A token that has expired is replaced by `fresh`.

import { connection, subscription } from './connection.mjs';
import { end, say, task } from './program.mjs';

async function getToken() {
  say('token asked');
  return task.fresh;
}

const client = connection(task.fresh ? { getToken } : {});
const followed = subscription(client, task.channel);
followed.on('publication', ({ data }) => {
  if (['job.succeeded', 'job.failed'].includes(data.type)) {
    end();
  }
});
followed.subscribe();
client.connect();
