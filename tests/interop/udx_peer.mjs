// The official UDX at the other end. Two ways to drive it:
// - line by line: one JSON request {"id", "verb", ...} on stdin, one answer {"id", "ok" | "error"} on stdout, and
//   {"event", "stream", ...} lines of its own. Byte strings are hex. It ends when stdin does.
// - as one end of a transfer, for bench/udx_pair.py: node udx_peer.mjs role=recv|send bytes=N [port=P] [secret=0]
import crypto from 'node:crypto'
import readline from 'node:readline'
import SecretStream from '@hyperswarm/secret-stream'
import UDX from 'udx-native'

const CHUNK = 65536
const RECEIVER_ID = 1
const SENDER_ID = 2
const words = Object.fromEntries(process.argv.slice(2).map((word) => [word.split('=')[0], word.slice(word.indexOf('=') + 1)]))
if (words.role) transfer()
else serve()

// --- one end of a transfer

function transfer () {
  const sends = words.role === 'send'
  const host = words.host ?? '127.0.0.1'
  const [ours, theirs] = sends ? [SENDER_ID, RECEIVER_ID] : [RECEIVER_ID, SENDER_ID]
  const udx = new UDX()
  const socket = udx.createSocket()
  socket.bind(0, host)
  const raw = udx.createStream(ours)
  socket.once('message', (_, from) => {
    raw.connect(socket, theirs, from.port, from.host)
    if (!sends) socket.send(Buffer.from('go'), from.port, from.host)
    const stream = words.secret === '0' ? raw : new SecretStream(sends, raw)
    stream.on('error', () => {})
    if (sends) sendAll(stream, raw)
    else receiveAll(stream, raw)
  })
  if (sends) socket.send(Buffer.from('hi'), Number(words.port), host)
  else console.log('READY ' + JSON.stringify({ port: socket.address().port }))
}

function meter () {
  const start = process.hrtime.bigint()
  const cpu = process.cpuUsage()
  return (bytes, raw) => {
    const wall = Number(process.hrtime.bigint() - start) / 1e9
    const { user, system } = process.cpuUsage(cpu)
    const line = {
      bytes,
      wall,
      mb_s: bytes / 1e6 / wall,
      cpu_s_gb: (user + system) / 1e6 / (bytes / 1e9),
      rss_mb: (process.resourceUsage().maxRSS * 1024) / 1e6,
      rtt: raw.rtt / 1000,
      cwnd: raw.cwnd,
      mtu: raw.mtu,
      packets: raw.packetsTransmitted,
      retransmits: raw.retransmits
    }
    process.stdout.write('RESULT ' + JSON.stringify(line) + '\n', () => setTimeout(() => process.exit(0), 300))
  }
}

async function sendAll (stream, raw) {
  if (stream !== raw) await stream.opened
  const total = Number(words.bytes)
  const chunk = crypto.randomBytes(CHUNK)
  const stop = meter()
  stream.once('data', () => stop(total, raw))
  for (let sent = 0; sent < total; sent += CHUNK) {
    if (!stream.write(chunk)) await new Promise((resolve) => stream.once('drain', resolve))
  }
}

function receiveAll (stream, raw) {
  const total = Number(words.bytes)
  const hash = words.hash === '1' ? crypto.createHash('sha256') : null
  let stop = null
  let got = 0
  if (stream !== raw) stream.opened.then(() => { stop ??= meter() })
  stream.on('data', (data) => {
    stop ??= meter()
    if (hash) hash.update(data)
    got += data.byteLength
    if (got < total) return
    stream.write(Buffer.from('k'))
    stop(got, raw)
  })
}

function serve () {}
