// A client in another language: node client.js TARGET PROTOS GOOGLEAPIS prints what it saw as JSON.
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [target, protos, googleapis] = process.argv.slice(2);
const definition = loader.loadSync('shoal/v1/search.proto', {
  includeDirs: [protos, googleapis], keepCase: true, longs: Number, enums: String,
});
const { shoal } = grpc.loadPackageDefinition(definition);
const client = new shoal.v1.SearchService(target, grpc.credentials.createInsecure());
const deadline = () => ({ deadline: Date.now() + 30_000 });

const search = (request) => new Promise((resolve, reject) => {
  client.Search(request, deadline(), (error, response) => error ? reject(error) : resolve(response));
});

const stream = (questions) => new Promise((resolve, reject) => {
  const found = {};
  const call = client.StreamSearch(deadline());
  call.on('data', (item) => { found[item.item_id] = item.response.results[0].hits[0].passage.id; });
  call.on('error', reject);
  call.on('end', () => resolve(found));
  for (const [item_id, text] of Object.entries(questions)) {
    call.write({ item_id, request: { queries: [{ text }], k: 1 } });
  }
  call.end();
});

(async () => {
  const answer = await search({ queries: [{ text: 'what is the French capital' }], k: 1 });
  const streamed = await stream({ a: 'which animal is the biggest', b: 'four strings and a bow' });
  const refused = await search({ queries: [{ text: 'x' }], k: 0 }).catch(
    (error) => ({ code: error.code, message: error.details }),
  );
  client.close();
  console.log(JSON.stringify({
    first: answer.results[0].hits[0].passage.text, coverage: answer.coverage, streamed, refused,
  }));
})();
