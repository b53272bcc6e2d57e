-- What the proxy adds to answers on their way to a client.
--
-- Triton says UNAVAILABLE without a time (a full queue, an expired wait, a model that is stopping), and so does the proxy
-- when it finds no replica. What has none gets that of the outage responder: half a second, which HTTP can only say as a whole one.
-- A request that is too large is the caller's mistake; over gRPC the proxy itself can only call it UNKNOWN (2).
function envoy_on_response(answer)
  local headers = answer:headers()
  local status = headers:get("grpc-status")
  if status == "14" then
    if not headers:get("grpc-retry-pushback-ms") then headers:add("grpc-retry-pushback-ms", "500") end
  elseif status == "2" and string.find(headers:get("grpc-message") or "", "^expected a request of at most") then
    headers:replace("grpc-status", "3")
  elseif headers:get(":status") == "503" then
    if not headers:get("retry-after") then headers:add("retry-after", "1") end
  end
end
