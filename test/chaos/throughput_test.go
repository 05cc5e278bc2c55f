// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

const (
	// runsVariable sets how many runs the table of throughput is made of, defaultRuns
	// is few enough for every run of the tests.
	runsVariable = "CHATRUN_RUNS"
	defaultRuns  = 150
	// tokens of an answer, and the time between two, make one of 300 ms.
	tokens     = 50
	tokenPause = 6 * time.Millisecond
)

// throughput is one line of the table.
type throughput struct {
	replicas int
	took     time.Duration
	requests map[string]int
}

var _ = Describe("Throughput", func() {
	It("of one, two and three replicas, and what it costs the API server", func(ctx SpecContext) {
		total := defaultRuns
		if s := os.Getenv(runsVariable); s != "" {
			var err error
			total, err = strconv.Atoi(s)
			Expect(err).NotTo(HaveOccurred(), runsVariable)
		}
		var lines []throughput
		for replicas := 1; replicas <= 3; replicas++ {
			lines = append(lines, measure(ctx, replicas, total))
		}
		kinds := map[string]int{}
		for _, l := range lines {
			maps.Copy(kinds, l.requests)
		}
		columns := slices.Sorted(maps.Keys(kinds))
		var table strings.Builder
		fmt.Fprintf(&table, "%d runs at once, answers of %d tokens in %v\nreplicas | runs/s | %s\n", total, tokens, tokens*tokenPause, strings.Join(columns, " | "))
		for _, l := range lines {
			fmt.Fprintf(&table, "%d | %.0f", l.replicas, float64(total)/l.took.Seconds())
			for _, kind := range columns {
				fmt.Fprintf(&table, " | %d", l.requests[kind])
			}
			table.WriteByte('\n')
		}
		report("%s", table.String())
		for _, l := range lines {
			Expect(l.requests["patch chatruns/status"]).To(BeNumerically(">=", 2*total), "the audit log is not whole")
			Expect(l.requests["patch chatruns/status"]).To(BeNumerically("<", 3*total), "more writes than a run needs, with %d replicas", l.replicas)
		}
	}, SpecTimeout(10*time.Minute))
})

// measure lets replicas end so many runs.
func measure(ctx SpecContext, replicas, total int) throughput {
	GinkgoHelper()
	w := newWorld(ctx, func(s *script) { s.good, s.pause, s.alike = true, tokenPause, tokens })
	stops := make([]func() error, 0, replicas)
	for n := range replicas {
		stops = append(stops, w.manager(plane.ManagerKubeconfig, fmt.Sprintf("of-%d-pod-%d", replicas, n)).Terminate)
	}
	w.members(ctx, replicas)
	began := time.Now()
	w.offerAll(ctx, 0, total)
	w.untilAllEnd(ctx, total)
	line := throughput{replicas: replicas, took: time.Since(began), requests: map[string]int{}}
	for _, stop := range stops {
		Expect(stop()).To(Succeed())
	}
	requests, err := plane.Requests(w.namespace)
	Expect(err).NotTo(HaveOccurred())
	for _, r := range requests {
		kind := r.Verb + " " + r.Resource
		if r.Subresource != "" {
			kind += "/" + r.Subresource
		}
		line.requests[kind]++
	}
	return line
}
