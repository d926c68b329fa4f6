package config

import "time"

type rawDrain struct {
	Time               time.Duration `key:"time" default:"30s" range:"0s..24h"`
	ConnectionsTimeout time.Duration `key:"connections_timeout" default:"10m" range:"0s..720h"`
	Unbind             bool          `key:"unbind" default:"false"`
	MED                *uint32       `key:"med" range:"0..4294967295"`
	LocalPref          uint32        `key:"local_pref" default:"0" range:"0..4294967295"`
	Prepend            int           `key:"prepend" default:"0" range:"0..10"`
	Communities        []community   `key:"communities"`
}
