// The server under test, and what its answers say about thinking traces.
export const SERVER = process.env.DEEPSERVE_URL;
if (!SERVER) throw new Error('Set DEEPSERVE_URL to the address of a running server, for example http://127.0.0.1:8000');

export const MODEL = 'deepseek-v4-pro';
export const QUESTION = 'What is the weather in Paris?';
export const ANSWER = 'The weather in Paris: 21 C, sunny.';
export const WEATHER = '21 C, sunny';
export const PARAMETERS = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
};

/** A fetch for the SDKs that notes what each answer says about past traces: "sent=1 restored=0 missing=0". */
export function watchedFetch() {
  const traces = [];
  const fetchAndNote = async (...request) => {
    const response = await fetch(...request);
    traces.push(response.headers.get('x-deepserve-reasoning'));
    return response;
  };
  return { traces, fetch: fetchAndNote };
}
