-- HAProxy filter that limits the size of request bodies, also of chunked ones, which have no Content-Length:
--   filter lua.body-limit BYTES
-- A Lua filter can abort a request only by raising an error, which HAProxy turns into a status 400. haproxy.cfg replaces
-- the status by 413 and the body by txn.error.

local BodyLimit = { id = "body-limit", flags = filter.FLT_CFG_FL_HTX }
BodyLimit.__index = BodyLimit

function BodyLimit:new()
    return setmetatable({ limit = self.limit, received = 0 }, BodyLimit)
end

function BodyLimit:start_analyze(transaction, channel)
    if not channel:is_resp() then
        filter.register_data_filter(self, channel)
    end
end

function BodyLimit:http_payload(transaction, message)
    self.received = self.received + #(message:body() or "")
    if self.received > self.limit then
        local problem = ("the body is larger than %d bytes"):format(self.limit)
        transaction:set_var("txn.error", problem)
        error(problem, 0)
    end
end

core.register_filter("body-limit", BodyLimit, function(declared, arguments)
    declared.limit = tonumber(arguments[1])
    return declared
end)
