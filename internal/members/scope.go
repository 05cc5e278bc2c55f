// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"slices"
	"strings"
)

// scope is which namespaces a replica watches: those that stand in it, each between
// commas, or all, if it is empty.
type scope string

// scopeOf is the scope of a list, in any order.
func scopeOf(namespaces []string) scope {
	if len(namespaces) == 0 {
		return ""
	}
	sorted := slices.Compact(slices.Sorted(slices.Values(namespaces)))
	return scope("," + strings.Join(sorted, ",") + ",")
}

// parseScope reads what a Lease says.
func parseScope(text string) scope {
	if text == "" {
		return ""
	}
	return scopeOf(strings.Split(text, ","))
}

// String returns the list, as it stands in a Lease.
func (s scope) String() string { return strings.Trim(string(s), ",") }

// has says whether a namespace is watched.
func (s scope) has(namespace string) bool {
	return s == "" || strings.Contains(string(s), ","+namespace+",")
}
