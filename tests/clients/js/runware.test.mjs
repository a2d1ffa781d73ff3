// Runware's own SDK, over its WebSocket: `@runware/sdk-js`.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { Runware } from '@runware/sdk-js';
import { MODEL, QUESTION, SERVER } from './server.mjs';

const client = new Runware({
  apiKey: 'local',
  url: SERVER.replace(/^http/, 'ws'),
  shouldReconnect: false,
  globalMaxRetries: 0,
  timeoutDuration: 20_000,
});
const asked = { model: MODEL, messages: [{ role: 'user', content: QUESTION }], temperature: 0 };

after(() => client.disconnect());

test('an answer, its cost and its usage', async () => {
  const [answer] = await client.textInference({ ...asked, includeCost: true, includeUsage: true });
  assert.equal(answer.taskType, 'textInference');
  assert.equal(answer.finishReason, 'stop');
  assert.ok(answer.text);
  assert.ok(answer.cost > 0);
  assert.equal(answer.usage.totalTokens, answer.usage.promptTokens + answer.usage.completionTokens);
});

test('several results, each with its own seed', async () => {
  const answers = await client.textInference({ ...asked, numberResults: 3 });
  assert.equal(answers.length, 3);
  assert.equal(new Set(answers.map((answer) => answer.seed)).size, 3);
});

test('an answer that is polled for says what the one that is waited for says', async () => {
  const [now] = await client.textInference(asked);
  const [later] = await client.textInference({ ...asked, deliveryMethod: 'async' });
  assert.equal(later.text, now.text);
});

test('thinking is off, unless a level asks for it', async () => {
  const settings = { thinkingLevel: 'high' };
  const [thinking] = await client.textInference({ ...asked, settings, includeUsage: true });
  assert.ok(thinking.usage.thinkingTokens > 0);
  const [plain] = await client.textInference({ ...asked, includeUsage: true });
  assert.equal(plain.usage.thinkingTokens ?? 0, 0);
});

test('requests side by side get their own answers', async () => {
  const answers = await Promise.all(
    ['Hello', QUESTION].map((content) => client.textInference({ ...asked, messages: [{ role: 'user', content }] })),
  );
  assert.notEqual(answers[0][0].text, answers[1][0].text);
  assert.notEqual(answers[0][0].taskUUID, answers[1][0].taskUUID);
});

test('an error names the parameter that is at fault', async () => {
  await assert.rejects(client.textInference({ ...asked, settings: { temperature: 30 } }), (raised) => {
    const { error } = raised;
    assert.equal(error.parameter, 'settings.temperature');
    assert.equal(error.taskType, 'textInference');
    assert.ok(error.code);
    return true;
  });
});
