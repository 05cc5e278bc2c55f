// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes/fake"
)

func TestTicketAdmits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newAPI()
		w := newWorld(t, Options{Client: server})
		answer := w.issue(request{token: janeToken})
		var got struct {
			Ticket    string
			ExpiresAt time.Time
		}
		if err := json.Unmarshal(answer.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if answer.Code != http.StatusCreated || answer.Header().Get("Cache-Control") != "no-store" || answer.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%d %v", answer.Code, answer.Header())
		}
		if !got.ExpiresAt.Equal(time.Now().Add(time.Hour)) {
			t.Errorf("expires at %v, and it is %v", got.ExpiresAt, time.Now())
		}
		if code := w.admit(request{ticket: got.Ticket}).Code; code != http.StatusOK {
			t.Errorf("%d with a ticket", code)
		}
		want := question(mustOpen(t, w, got.Ticket), streamRight("default", "hello"))
		if fmt.Sprint(want) != fmt.Sprint(server.asked) || server.asked.UID != "uid-jane" || len(server.asked.Groups) != 2 || len(server.asked.Extra) != 1 {
			t.Errorf("asked for %+v", server.asked)
		}
		if token, access := server.reviews(); token != 1 || access != 1 {
			t.Errorf("%d token reviews and %d access reviews for a ticket that was just issued", token, access)
		}
		<-time.After(time.Hour - time.Second)
		if code := w.admit(request{ticket: got.Ticket}).Code; code != http.StatusOK {
			t.Errorf("%d within the hour", code)
		}
		<-time.After(time.Second)
		late := w.admit(request{ticket: got.Ticket})
		if s := status(t, late); late.Code != http.StatusUnauthorized || s.Message != "the ticket is not valid any more: ask for another one" {
			t.Errorf("after an hour: %d %s", late.Code, s.Message)
		}
	})
}

// TestRightOfTicketIsAskedAnew: a ticket says who, never what.
func TestRightOfTicketIsAskedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newAPI()
		w := newWorld(t, Options{Client: server})
		ticket := w.ticket(request{token: janeToken})
		server.set(func() { delete(server.readers, "jane default/hello") })
		<-time.After(allowTTL + time.Millisecond)
		answer := w.admit(request{ticket: ticket})
		if answer.Code != http.StatusForbidden || !strings.Contains(status(t, answer).Message, `User "jane"`) {
			t.Errorf("%d %s", answer.Code, answer.Body)
		}
		server.set(func() { server.down = errDown })
		<-time.After(denyTTL + time.Millisecond)
		if code := w.admit(request{ticket: ticket}).Code; code != http.StatusServiceUnavailable {
			t.Errorf("%d without a review", code)
		}
	})
}

// TestTicketIsForOneRun tries it at others, where jane has the right as well.
func TestTicketIsForOneRun(t *testing.T) {
	server := newAPI()
	server.readers["jane default/other"], server.readers["jane other/hello"] = true, true
	w := newWorld(t, Options{Client: server})
	ticket := w.ticket(request{token: janeToken})
	for _, q := range []request{{ticket: ticket, name: "other"}, {ticket: ticket, namespace: "other"}} {
		answer := w.admit(q)
		if s := status(t, answer); answer.Code != http.StatusUnauthorized || s.Message != "the ticket is not valid for this run" {
			t.Errorf("%+v: %d %s", q, answer.Code, s.Message)
		}
	}
}

// TestHeaderWins: a ticket beside an Authorization header counts for nothing.
func TestHeaderWins(t *testing.T) {
	w := newWorld(t, Options{Client: newAPI()})
	ticket := w.ticket(request{token: janeToken})
	for name, tc := range map[string]struct {
		request request
		code    int
	}{
		"both good":              {request{token: janeToken, ticket: ticket}, 200},
		"bad token":              {request{token: badToken, ticket: ticket}, 401},
		"a user without a right": {request{token: joeToken, ticket: ticket}, 403},
		"another scheme":         {request{header: http.Header{"Authorization": {"Basic x"}}, ticket: ticket}, 401},
		"good, bad ticket":       {request{token: janeToken, ticket: "garbage"}, 200},
	} {
		if code := w.admit(tc.request).Code; code != tc.code {
			t.Errorf("%s: %d, want %d", name, code, tc.code)
		}
	}
}

func TestTicketIssuesNone(t *testing.T) {
	w := newWorld(t, Options{Client: newAPI()})
	ticket := w.ticket(request{token: janeToken})
	if code := w.issue(request{ticket: ticket}).Code; code != http.StatusUnauthorized {
		t.Errorf("%d for a ticket by a ticket", code)
	}
	if code := w.issue(request{token: joeToken}).Code; code != http.StatusForbidden {
		t.Errorf("%d for a ticket without the right", code)
	}
}

// TestSpoiltTickets changes a ticket at every place, and cuts it.
func TestSpoiltTickets(t *testing.T) {
	server := newAPI()
	w := newWorld(t, Options{Client: server})
	good := w.ticket(request{token: janeToken})
	before, access := server.reviews()
	refused := func(ticket string) {
		t.Helper()
		answer := w.admit(request{ticket: ticket})
		if answer.Code != http.StatusUnauthorized || answer.Header().Get("WWW-Authenticate") != "Bearer" {
			t.Errorf("%d for %q", answer.Code, ticket)
		}
	}
	for i := range len(good) {
		other := byte('A')
		if good[i] == other {
			other = 'B'
		}
		refused(good[:i] + string(other) + good[i+1:])
	}
	for _, ticket := range []string{
		"x", "A", "AQ", strings.Repeat("A", 48), good[:len(good)-1], good[1:], good + "A", good + "%3D", good + good,
		strings.Repeat("A", maxTicket), strings.Repeat("A", maxTicket+4), "%00", "..%2f", "null", "undefined",
	} {
		refused(ticket)
	}
	if b, a := server.reviews(); b != before || a != access {
		t.Errorf("%d and %d reviews for tickets that are none", b-before, a-access)
	}
}

// TestNoTickets: where there is no Secret for the key, there are none at all.
func TestNoTickets(t *testing.T) {
	w := newWorld(t, Options{Client: newAPI()})
	ticket := w.ticket(request{token: janeToken})
	w.gate.tickets = newTickets(nil, types.NamespacedName{Namespace: "chatrun-system"}, w.logger())
	if answer := w.issue(request{token: janeToken}); answer.Code != http.StatusNotFound || status(t, answer).Message != "this manager issues no tickets" {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
	if code := w.admit(request{ticket: ticket}).Code; code != http.StatusUnauthorized {
		t.Errorf("%d", code)
	}
}

// TestLargeUsers: the largest user whose ticket fits into 8 KiB gets one, and
// the next larger one is told what to do.
func TestLargeUsers(t *testing.T) {
	server := newAPI()
	w := newWorld(t, Options{Client: server})
	largest, refused := 0, 0
	for groups := 1; refused == 0; groups++ {
		token := fmt.Sprint("large-", groups)
		large := authenticationv1.UserInfo{Username: "jane"}
		for i := range groups {
			large.Groups = append(large.Groups, fmt.Sprintf("group-with-a-rather-long-name-%06d", i))
		}
		server.set(func() { server.users[token] = large })
		answer := w.issue(request{token: token})
		if answer.Code == http.StatusCreated {
			largest = max(largest, answer.Body.Len())
			continue
		}
		refused = groups
		if s := status(t, answer); answer.Code != http.StatusBadRequest || !strings.Contains(s.Message, "send your credentials in the Authorization header") {
			t.Errorf("%d %s", answer.Code, s.Message)
		}
	}
	if refused < 100 || largest > maxTicket+100 || largest < maxTicket-100 {
		t.Errorf("refused with %d groups, the largest answer has %d bytes", refused, largest)
	}
}

func mustOpen(t *testing.T, w *world, ticket string) user.Info {
	t.Helper()
	who, err := w.gate.tickets.open(t.Context(), ticket, "default", "hello")
	if err != nil {
		t.Fatal(err)
	}
	return who
}

// FuzzTicket opens whatever comes: only what was issued is ever good, and only
// where it was issued for.
func FuzzTicket(f *testing.F) {
	server := newAPI()
	issuer, gate := New(Options{Client: server, TicketSecret: secretName}), New(Options{Client: server, TicketSecret: secretName})
	r, namespace, name := request{token: janeToken}.build(f, http.MethodPost)
	answer := httptest.NewRecorder()
	issuer.Issue(answer, r, namespace, name)
	var issued struct{ Ticket string }
	if err := json.Unmarshal(answer.Body.Bytes(), &issued); err != nil || issued.Ticket == "" {
		f.Fatal(answer.Body)
	}
	f.Add(issued.Ticket, "default", "hello")
	f.Add(issued.Ticket, "default", "other")
	f.Add(issued.Ticket[:60], "default", "hello")
	f.Add(strings.Repeat("A", 60), "", "")
	f.Fuzz(func(t *testing.T, ticket, namespace, name string) {
		who, err := gate.tickets.open(t.Context(), ticket, namespace, name)
		if (who == nil) != (err != nil) {
			t.Fatalf("%v and %v", who, err)
		}
		if good := ticket == issued.Ticket && namespace == "default" && name == "hello"; good != (err == nil) {
			t.Errorf("%q in %s/%s: %v", ticket, namespace, name, err)
		}
	})
}

// TestKeyIsOwned: by the manager's account, so that it goes when that is uninstalled.
func TestKeyIsOwned(t *testing.T) {
	client := fake.NewClientset()
	owner := metav1.OwnerReference{APIVersion: "v1", Kind: "ServiceAccount", Name: "manager", UID: "uid-1"}
	k := &keys{client: client, secret: types.NamespacedName{Namespace: "ns", Name: "tickets"}, owners: func(_ context.Context, namespace string) []metav1.OwnerReference {
		if namespace != "ns" {
			t.Errorf("asked for owners in %s", namespace)
		}
		return []metav1.OwnerReference{owner}
	}}
	if _, err := k.current(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	secret, err := client.CoreV1().Secrets("ns").Get(t.Context(), "tickets", metav1.GetOptions{})
	if err != nil || len(secret.OwnerReferences) != 1 || secret.OwnerReferences[0] != owner {
		t.Errorf("owned by %v, %v", secret.OwnerReferences, err)
	}
}
