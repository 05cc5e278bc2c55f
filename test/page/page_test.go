// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package page

import (
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
)

// answered is what the provider says in the story, in three parts.
var answered = []string{
	"A lighthouse keeper's day begins at dusk, when the lamp is lit and its lenses are wiped free of salt.\n\n",
	"Through the night the keeper winds the clockwork, trims the wick and writes into the log what passes. <b>Nothing</b> here is markup.\n\n",
	"At dawn the lamp goes out. Then there is brass to polish.",
}

// provider makes the provider of a namespace.
func provider(t *testing.T, namespace string) func() error {
	return func() error {
		return named("making the provider", the.plane.Client.Create(t.Context(), &v1alpha1.ChatProvider{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "openai"},
			Spec:       v1alpha1.ChatProviderSpec{Type: v1alpha1.ProviderOpenAI, BaseURL: the.fake.URL() + "/v1", DefaultModel: "gpt-5-mini"},
		}))
	}
}

// begin makes a run that the provider answers as given, one response an attempt.
func begin(t *testing.T, namespace, name string, title v1alpha1.TitlePolicy, answers ...chattest.Response) func() error {
	prompt := "question of " + namespace + "/" + name
	the.scripts.Store(prompt, chattest.Sequence(answers...))
	return func() error {
		return named("making a run", the.plane.Client.Create(t.Context(), &v1alpha1.ChatRun{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec: v1alpha1.ChatRunSpec{
				ProviderRef: v1alpha1.ProviderReference{Name: "openai"}, Prompt: prompt, Title: &v1alpha1.Title{Policy: title},
				// Long enough to be seen counting.
				RetryPolicy: &v1alpha1.RetryPolicy{InitialDelayMs: new(int64(4000)), MaxDelayMs: new(int64(4000))},
			},
		}))
	}
}

// place makes a namespace with a user who may see all of it, and one who may only
// read streams.
func place(t *testing.T, name string) (namespace string, tokens map[string]string) {
	t.Helper()
	namespace, err := the.newNamespace(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	tokens = map[string]string{}
	for user, roles := range map[string][]string{
		"viewer": {"chatrun-viewer", "chatrun-stream-reader"}, "listener": {"chatrun-stream-reader"},
	} {
		if tokens[user], err = the.user(t.Context(), namespace, user, roles...); err != nil {
			t.Fatal(err)
		}
	}
	return namespace, tokens
}

func overloaded() chattest.Response {
	return chattest.OpenAIErrorResponse(http.StatusServiceUnavailable, "overloaded_error", "", "busy")
}

// TestStory: by the keyboard alone, from the sign-in over a wrong token and the list
// to a run, from Pending over three retries and a cut connection to its end; and then
// the sign-out, which forgets.
func TestStory(t *testing.T) {
	namespace, tokens := place(t, "lighthouse")
	first, openFirst := gate(t)
	second, openSecond := gate(t)
	draft, drop := gate(t)
	good := chattest.Answer(answered...).HoldAfter(1, first).HoldAfter(2, second).Usage(21, 74)
	browse(t, "story", namespace, tokens, steps{
		"first": begin(t, namespace, "a-good-one", v1alpha1.TitleNone, chattest.Answer("Yes.")),
		"run": begin(t, namespace, "keeper", v1alpha1.TitleGenerate,
			overloaded(), chattest.Answer("A draft that is ", "dropped").HoldAfter(1, draft).EndAfter(2), chattest.OpenAIRateLimitResponse(), good),
		"provider": provider(t, namespace),
		"drop":     drop,
		"goOn":     openFirst,
		"finish":   openSecond,
	})
}

// TestFailure: why a run failed is said, with its reason, and that it is no token's or
// name's fault where it is.
func TestFailure(t *testing.T) {
	namespace, tokens := place(t, "failing")
	if err := provider(t, namespace)(); err != nil {
		t.Fatal(err)
	}
	run := begin(t, namespace, "wrong", v1alpha1.TitleNone, chattest.OpenAIErrorResponse(http.StatusUnauthorized, "invalid_request_error", "invalid_api_key", "no"))
	if err := run(); err != nil {
		t.Fatal(err)
	}
	browse(t, "failure", namespace, tokens, steps{})
}

// TestLongAnswer: two megabytes of text stay as fast as the first words, and whole.
func TestLongAnswer(t *testing.T) {
	namespace, tokens := place(t, "long")
	if err := provider(t, namespace)(); err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("words and words, ", 60) + "\n"
	parts := make([]string, 2000)
	for i := range parts {
		parts[i] = line
	}
	held, open := gate(t)
	browse(t, "long", namespace, tokens, steps{
		"run":  begin(t, namespace, "long", v1alpha1.TitleNone, chattest.Answer(parts...).HoldAfter(0, held)),
		"goOn": open,
	})
}
