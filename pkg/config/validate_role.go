package config

// validateRole compares what a rank changes with what is announced anyway.
func validateRole(v VIP, r *report, path string) {
	if v.Role == nil {
		return
	}
	place := path + ".role.announce"
	o, a := v.Role, v.Announce
	doubles(o.Communities, r, place, "communities")
	doubles(o.LargeCommunities, r, place, "large_communities")
	doubles(o.ExtendedCommunities, r, place, "extended_communities")
	already(o.Communities, a.Communities, r, place, path+".announce", "communities")
	already(o.LargeCommunities, a.LargeCommunities, r, place, path+".announce", "large_communities")
	already(o.ExtendedCommunities, a.ExtendedCommunities, r, place, path+".announce", "extended_communities")
	if o.Prepend == nil || !r.ok(place+".prepend", path+".announce.prepend", path+".on_failure") {
		return
	}
	sum, with := a.Prepend, "announce.prepend, which is"
	if v.Degrade != nil && v.Degrade.Prepend > 0 {
		sum, with = sum+v.Degrade.Prepend, "announce.prepend and on_failure.degrade.prepend, which are"
	}
	if *o.Prepend > 0 && sum+*o.Prepend > 10 {
		r.add(place+".prepend", "is added to %s %d; the sum must be at most 10", with, sum)
	}
}
