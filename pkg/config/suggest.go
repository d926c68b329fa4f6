package config

import "strings"

// closest returns the word that the user most likely meant, or "" if none is
// near enough.
func closest(word string, words []string) string {
	best, distance := "", 3
	plain := strings.ReplaceAll(strings.ToLower(word), "-", "_")
	for _, w := range words {
		// A short word must be nearer: "as" is not "tcp".
		if d := editDistance(plain, w); d < distance && d*2 < len(w) {
			best, distance = w, d
		}
	}
	return best
}

// editDistance is the number of letters to add, drop, replace or swap with the
// next (optimal string alignment).
func editDistance(a, b string) int {
	if len(a) > len(b)+3 {
		return len(a) // too far anyway; spares work on long keys
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
