-- What no replica may hear. Triton 2.51 splits a form, and reads nested JSON, on the stack of a thread, and ends where the
-- stack does. Its supervisor gives it 512 MiB, which holds JSON of UNREAD bytes however it is nested; what is larger is
-- looked at here. A tensor has few dimensions, and a request little around it.
local UNREAD = 1048576
local MOST_DEPTH = 64
local MOST_BRACKETS = 2000000

local function nests(text)
  local depth, brackets = 0, 0
  for bracket in string.gmatch(text, "[%[%]{}]") do
    brackets = brackets + 1
    depth = depth + ((bracket == "[" or bracket == "{") and 1 or -1)
    if depth > MOST_DEPTH or brackets > MOST_BRACKETS then return true end
  end
  return false
end

function envoy_on_request(request)
  local headers = request:headers()
  local kind = headers:get("content-type")
  if kind and string.find(string.lower(kind), "form-urlencoded", 1, true) then
    headers:replace("content-type", "application/json")   -- what curl calls its data
  end
  local json = tonumber(headers:get("inference-header-content-length") or "")
  local all = tonumber(headers:get("content-length") or "")   -- of a body without, the buffer filter says it
  if (json or all or 0) <= UNREAD then return end
  local body = request:body()
  if not body then return end
  if nests(body:getBytes(0, math.min(json or body:length(), body:length()))) then
    local told = "expected JSON of at most " .. MOST_DEPTH .. " levels and " .. MOST_BRACKETS .. " brackets"
    request:respond({ [":status"] = "400" }, told)
  end
end
