-- "seq epoch owner_epoch": forward only within an epoch, and never by an older owner. What is to be held now; nil: what is.
local function forward(held, seq, epoch, owner)
  if held then
    local held_seq, held_epoch, held_owner = held:match('^(%d+) (%w+) (%d+)$')
    if held_seq then
      if tonumber(held_owner) > tonumber(owner) then return nil end
      if held_epoch == epoch and tonumber(held_seq) > tonumber(seq) then seq = held_seq end
    end
  end
  return seq .. ' ' .. epoch .. ' ' .. owner
end
