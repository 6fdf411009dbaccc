/* Philosophers that take forks in any order and count their meals: many states, few of them alike. */
#ifndef LAPS
#define LAPS 6
#endif
#define PEOPLE 5
byte fork_[PEOPLE];
byte meals[PEOPLE];

active [PEOPLE] proctype philosopher() {
    byte me = _pid, left = _pid, right = (_pid + 1) % PEOPLE;
    do
    :: atomic { fork_[left] == 0 -> fork_[left] = me + 1 };
       if
       :: atomic { fork_[right] == 0 -> fork_[right] = me + 1 };
          meals[me] = (meals[me] + 1) % LAPS;
          fork_[right] = 0
       :: skip
       fi;
       fork_[left] = 0
    od
}
