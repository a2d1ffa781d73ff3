// OpenRouter's own SDK, and its provider for the AI SDK: `@openrouter/sdk` and `@openrouter/ai-sdk-provider`.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createOpenRouter } from '@openrouter/ai-sdk-provider';
import { OpenRouter } from '@openrouter/sdk';
import { APICallError, generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai';
import { ANSWER, PARAMETERS, QUESTION, SERVER, WEATHER, watchedFetch } from './server.mjs';

globalThis.AI_SDK_LOG_WARNINGS = false;

const MODEL = 'deepseek/deepseek-v4-pro';
const DATED = 'deepseek/deepseek-v4-pro-20260423';
const BASE = `${SERVER}/api/v1`;
const MESSAGES = [{ role: 'user', content: QUESTION }];

const client = new OpenRouter({ apiKey: 'sk-or-local', serverURL: BASE, retryConfig: { strategy: 'none' } });
const { traces, fetch } = watchedFetch();
const provider = createOpenRouter({ baseURL: BASE, apiKey: 'sk-or-local', fetch });
const asked = { model: provider(MODEL), prompt: QUESTION, maxRetries: 0 };
const steady = { ...asked, temperature: 0 };

test('the SDK takes an answer, its reasoning and its cost', async () => {
  const answer = await client.chat.send({ chatRequest: { model: MODEL, messages: MESSAGES } });
  assert.equal(answer.model, DATED);
  assert.ok(answer.choices[0].message.content);
  assert.ok(answer.choices[0].message.reasoning);
  assert.ok(answer.usage.cost > 0);
});

test('the SDK takes a stream', async () => {
  const stream = await client.chat.send({ chatRequest: { model: MODEL, messages: MESSAGES, stream: true } });
  let text = '';
  let usage;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? '';
    usage = chunk.usage ?? usage;
  }
  assert.ok(text);
  assert.ok(usage.cost > 0);
});

test('the SDK lists the models', async () => {
  const models = await client.models.list();
  const found = models.data ?? models.result?.data;
  assert.deepEqual(
    found.map((model) => model.id),
    ['deepseek/deepseek-v4-pro', 'deepseek/deepseek-v4-flash'],
  );
});

test('the SDK asks for a model by callModel, which goes to /responses', async () => {
  assert.ok(await client.callModel({ model: MODEL, input: QUESTION }).getText());
});

test('the AI SDK takes an answer, its reasoning and its cost', async () => {
  const whole = await generateText(steady);
  assert.equal(whole.finishReason, 'stop');
  assert.ok(whole.text);
  assert.ok(whole.reasoningText);
  assert.ok(whole.providerMetadata.openrouter.usage.cost > 0);
  assert.equal(whole.providerMetadata.openrouter.provider, 'deepserve');
});

test('a stream of the AI SDK says what the whole answer says', async () => {
  const whole = await generateText(steady);
  const streamed = streamText(steady);
  let text = '';
  for await (const delta of streamed.textStream) text += delta;
  assert.equal(text, whole.text);
  assert.equal(await streamed.reasoningText, whole.reasoningText);
  assert.equal((await streamed.usage).outputTokens, whole.usage.outputTokens);
});

test('thinking is switched off as the provider does it', async () => {
  const model = provider(MODEL, { reasoning: { enabled: false, effort: 'none' } });
  const whole = await generateText({ ...steady, model });
  assert.ok(whole.text);
  assert.equal(whole.reasoningText, undefined);
});

for (const streams of [false, true]) {
  test(`a tool loop of the AI SDK, ${streams ? 'streamed' : 'whole'}, sends the trace back`, async () => {
    traces.length = 0;
    const weather = tool({
      description: 'Weather of a city',
      inputSchema: jsonSchema(PARAMETERS),
      execute: async () => WEATHER,
    });
    const request = { ...asked, tools: { get_weather: weather }, stopWhen: stepCountIs(3) };
    const result = streams ? streamText(request) : await generateText(request);
    assert.equal(await result.text, ANSWER);
    assert.equal((await result.steps).length, 2);
    assert.deepEqual(traces[1], 'sent=1 restored=0 missing=0');
  });
}

test("an error carries the server's message", async () => {
  await assert.rejects(generateText({ ...asked, temperature: 3 }), (error) => {
    assert.ok(APICallError.isInstance(error));
    assert.equal(error.statusCode, 400);
    assert.match(error.message, /temperature/);
    return true;
  });
});

test('a plain completion of the AI SDK is continued', async () => {
  const whole = await generateText({ model: provider.completion(MODEL), prompt: 'Once upon', maxRetries: 0 });
  assert.ok(whole.text);
});
