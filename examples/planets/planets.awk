# Weighs `kilograms` on each planet and tests Kepler's third law: the square of the period grows as the cube of the
# distance, so (period/year)^2 / (distance/au)^3 is 1 for all. The last line is the result.

BEGIN { FS = ","; au = 149.6; year = 365.2 }

/^#/ { next }

{
    newtons = kilograms * $4
    kepler = ($6 / year) ^ 2 / ($5 / au) ^ 3
    if (kepler > most) most = kepler
    if (least == 0 || kepler < least) least = kepler
    printf "%-8s %7.1f N, Kepler's constant %.4f\n", $1, newtons, kepler
    weights = weights (weights == "" ? "" : ", ") "\"" $1 "\": " sprintf("%.1f", newtons)
    planets++
}

END {
    if (planets != 8) { print "ERROR: the table has " planets " planets, not 8"; exit 1 }
    printf "INFO: Kepler's constant is between %.4f and %.4f\n", least, most
    printf "{\"kilograms\": %s, \"newtons\": {%s}, \"kepler_spread\": %.4f}\n", kilograms, weights, most - least
}
