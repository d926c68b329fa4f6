package config

// gracefulShutdown is the community GRACEFUL_SHUTDOWN (RFC 8326 section 4.1).
const gracefulShutdown = 65535 << 16

// validateDrain compares what changes while a VIP is about to go with what is
// announced anyway.
func validateDrain(v VIP, r *report, path string) {
	place := path + ".drain"
	d, a := v.Drain, v.Announce
	doubles(d.Communities, r, place, "communities")
	already(d.Communities, a.Communities, r, place, path+".announce", "communities")
	for k, c := range d.Communities {
		if at := index(place+".communities", k); c == gracefulShutdown && r.ok(at) {
			r.add(at, "is GRACEFUL_SHUTDOWN, which is added in any case")
		}
	}
	sum, with := a.Prepend, "announce.prepend, which is"
	if v.Degrade != nil {
		sum, with = sum+v.Degrade.Prepend, "announce.prepend and on_failure.degrade.prepend, which are"
	}
	if r.ok(place+".prepend", path+".announce.prepend", path+".on_failure") && d.Prepend > 0 && sum+d.Prepend > 10 {
		r.add(place+".prepend", "is added to %s %d; the sum must be at most 10", with, sum)
	}
}
