package config

import (
	"net/netip"
	"time"
)

// The part of the schema that is about peers; schema.go explains the tags.

// rawPeer is a peer of an interface.
type rawPeer struct {
	Address    peerAddress `key:"address"`
	Unnumbered bool        `key:"unnumbered" default:"false"`
	RouterID   *netip.Addr `key:"router_id"`
	rawSession
}

// rawRemote is a peer that belongs to no interface.
type rawRemote struct {
	Address      peerAddress `key:"address"`
	LocalAddress *netip.Addr `key:"local_address"`
	TTL          int         `key:"ttl" default:"64" range:"1..255"`
	AddPath      bool        `key:"add_path" default:"true"`
	RouterID     *netip.Addr `key:"router_id"`
	rawSession
}

// rawSession is what all peers have, and what they inherit from bgp.defaults.
type rawSession struct {
	ASN          peerASN          `key:"asn" required:"true"`
	Port         int              `key:"port" default:"179" range:"1..65535"`
	PasswordFile *string          `key:"password_file" off:"true"`
	TTLSecurity  bool             `key:"ttl_security" default:"false"`
	Timers       rawTimers        `key:"timers"`
	BFD          *rawBFD          `key:"bfd" off:"true" hint:"write {} for the defaults, false for none"`
	Passive      bool             `key:"passive" default:"false"`
	Families     *[]string        `key:"families" oneof:"ipv4 ipv6" single:"true"`
	Announce     *rawPeerAnnounce `key:"announce" off:"true" hint:"write {med: 100} or another attribute"`
}

type rawBFD struct {
	MinTx      time.Duration `key:"min_tx" default:"300ms" range:"10ms..1m"`
	MinRx      time.Duration `key:"min_rx" default:"300ms" range:"10ms..1m"`
	Multiplier int           `key:"multiplier" default:"3" range:"1..255"`
	Required   bool          `key:"required" default:"false"`
	Passive    bool          `key:"passive" default:"false"`
	Multihop   *bool         `key:"multihop"`
	MinTTL     *int          `key:"min_ttl" range:"1..255"`
	Auth       *rawBFDAuth   `key:"auth" off:"true" secret:"true" hint:"write {type: meticulous_keyed_sha1, key_file: PATH}"`
}

type rawBFDAuth struct {
	Type    string  `key:"type" required:"true" oneof:"simple keyed_md5 meticulous_keyed_md5 keyed_sha1 meticulous_keyed_sha1"`
	KeyID   int     `key:"key_id" default:"1" range:"0..255"`
	KeyFile *string `key:"key_file" required:"true"`
}

// rawPeerAnnounce has the fields of rawDegrade in their order.
type rawPeerAnnounce struct {
	MED                 *uint32             `key:"med" range:"0..4294967295" off:"true"`
	LocalPref           *uint32             `key:"local_pref" range:"1..4294967295" off:"true"`
	Prepend             int                 `key:"prepend" default:"0" range:"0..10"`
	Communities         []community         `key:"communities"`
	LargeCommunities    []LargeCommunity    `key:"large_communities"`
	ExtendedCommunities []ExtendedCommunity `key:"extended_communities"`
	Origin              *string             `key:"origin" oneof:"igp egp incomplete" off:"true"`
}
