-- For wrk: random requests out of a file of them, and the figures as one line of JSON.
-- A line of the file is a path, a header's name and its value, with tabs between.

local requests = {}

function init(args)
  math.randomseed(tonumber(args[2]))
  for line in io.lines(args[1]) do
    local path, name, value = line:match("([^\t]+)\t([^\t]+)\t(.+)")
    requests[#requests + 1] = wrk.format("GET", path, { [name] = value })
  end
end

function request()
  return requests[math.random(#requests)]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\n{"answers": %d, "seconds": %.6f, "bytes": %d, "failed": %d, "p50_ms": %.3f, "p99_ms": %.3f, "max_ms": %.3f}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
