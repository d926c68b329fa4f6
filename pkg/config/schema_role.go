package config

type rawRole struct {
	Rank     int             `key:"rank" required:"true" range:"1..254"`
	Failback string          `key:"failback" default:"immediate" oneof:"immediate idle manual"`
	Tag      bool            `key:"tag" default:"true"`
	Announce rawRoleAnnounce `key:"announce"`
}

type rawRoleAnnounce struct {
	MED                 *uint32             `key:"med" range:"0..4294967295"`
	LocalPref           *uint32             `key:"local_pref" range:"1..4294967295"`
	Prepend             *int                `key:"prepend" range:"0..10"`
	Communities         []community         `key:"communities"`
	LargeCommunities    []LargeCommunity    `key:"large_communities"`
	ExtendedCommunities []ExtendedCommunity `key:"extended_communities"`
}

func role(raw *rawRole) *Role {
	if raw == nil {
		return nil
	}
	a := raw.Announce
	return &Role{
		Rank: raw.Rank, Failback: raw.Failback, Tag: raw.Tag, MED: a.MED, LocalPref: a.LocalPref, Prepend: a.Prepend,
		Communities: values(a.Communities), LargeCommunities: a.LargeCommunities, ExtendedCommunities: a.ExtendedCommunities,
	}
}
